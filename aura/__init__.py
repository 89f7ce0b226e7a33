"""AURA: an inverse image signal processor, the sensors it targets, and how it is trained and judged."""
