"""What others add without editing fedlora: strategies, tasks, sources of data and optimisers, by name.

    a name of an entry point    registered by an installed package: strategy.name=carry
    a dotted name               any module of this Python:          strategy.name=my.module:Carry

A plug-in is code, and a name is data that may come from somebody else. So a name is looked up without an import
(`names`), and what it stands for is imported (`loading`) only in a process that was opened to its package (`gate`). So
is the code that a base model brings (`base_code`).
"""
