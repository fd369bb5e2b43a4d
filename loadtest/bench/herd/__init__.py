"""`stagecue bench herd`: as many real devices as one machine bears, with the whole pipeline in front of them.

options    what is asked for, and what is promised of it
layout     pure: how many push nodes and fleets, which device belongs where
ladder     pure: the stages of the night, due in even steps, so that one is due soon whenever the devices are ready
scene      what runs: the cluster, the push nodes, the fleets
footprint  memory by role, the kernel's included
spent      CPU by role between two moments
crowd      all fleets as one: connect, prefetch, churn, reach
night      from the first connect to the last stage; keeps what was measured when it is interrupted
findings   pure: what a night found, against what was promised
record     pure: the same as a report shows it
command    sizes one after the other, printed, judged and reported
"""
