"""Wires for the stream: in memory and ZMQ, behind one Protocol."""
