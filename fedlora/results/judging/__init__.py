"""A file's rows judged: means with their errors, classes, clients, the base; as people and other programs read it."""
