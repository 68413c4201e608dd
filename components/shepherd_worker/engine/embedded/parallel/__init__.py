"""One model on several devices: the first process schedules, the others follow."""
