"""The daemon: owns datasets, captions, runs and the journal; the engine worker does the maths."""
