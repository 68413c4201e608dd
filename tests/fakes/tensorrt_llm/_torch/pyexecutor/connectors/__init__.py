"""Where the connector's base classes are since 1.3."""
