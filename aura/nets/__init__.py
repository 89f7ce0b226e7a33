"""The networks: Denoise Net, CSP layers, and AURA itself."""
