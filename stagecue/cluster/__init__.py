"""`stagecue cluster`: the whole topology on this machine, started, watched over, looked at.

state.py         cluster.json: what runs where, for other processes; what a cluster that was killed left behind
supervisor.py    starts members, restarts those that die, stops them in order
screen.py        progress while it starts, and the tables of `up` and `status`
"""
