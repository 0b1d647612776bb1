"""The front ends: one file a protocol, each turning requests into calls of the predictor and answers into JSON."""
