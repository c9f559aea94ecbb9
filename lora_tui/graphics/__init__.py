"""Pictures in real pixels on terminals that can: which way, the encoders, what is on screen."""
