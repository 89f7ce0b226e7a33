"""What a camera is: levels, colour, noise, and how light becomes digital numbers in it."""
