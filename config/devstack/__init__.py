"""The one-command stack: `make up`, `make down`, `make reset`.

Standard library only, and no Django: it must start at once and say in one line what is wrong.

system      what the operating system offers: children that die with us, ports, whose process is whose
external    PostgreSQL and Redis that the environment names: tried before anything starts
servers     the embedded PostgreSQL and Valkey; nothing else in the product knows them
reaper      outlives the supervisor by a moment and ends what it left
supervisor  starts, watches, restarts and stops children
folder      what lies in var/, and who holds it
stack       which children there are, and what each is told
"""
