"""Options of a process: one frozen dataclass field is one flag, variable and file key."""
