"""The one-command stack: `make up`, `make down`, `make reset`.

Standard library only, and no Django: it must start at once and say in one line what is wrong.

system      what the operating system offers: children that die with us, ports, whose process is whose
servers     the embedded PostgreSQL and Valkey; nothing else in the product knows them
reaper      outlives the supervisor by a moment and ends what it left
supervisor  starts, watches, restarts and stops children
stack       which children there are, and what each is told
"""
