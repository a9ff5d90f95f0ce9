"""Replay: rings of transitions on the device, of frames and of steps in files of the host."""
