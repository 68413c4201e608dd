"""Code generated from `proto/shepherd_events/v1`; imported by the codec alone."""
