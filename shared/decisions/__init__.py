"""Every rule of the pipeline as a pure function: no I/O, no clock, no log."""
