"""Everything on one machine with embedded defaults: what `make run` and `make smoke` start.

`layout` says where things lie and on which ports, `setup` makes them, `processes` supervises them, `progress`
drives the examples and prints what came of them.
"""
