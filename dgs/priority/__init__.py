"""Who is served when not everybody can be.

rules.py         what a ruleset is, and which class and limits it gives a request      pure
phases.py        where an event stands: before, window, near a stage, after            pure
activation.py    when a rule is in force: triggers with hysteresis                     pure
ruleset_file.py  TOML -> ruleset, refused with file, table and field; hot reload
limiter.py       how many calls a dependency takes at once                             pure
shedding.py      which part of a class is served at a queue delay; quotas of rules     pure
retry_after.py   when a refused device may return                                      pure
dependencies.py  calls per dependency and class, their limits, and a guard for picks
refusals.py      the answer of a shed request, from prebuilt bytes                     pure
gate.py          all of it behind `dgs.serving.Gate`                                   pure
"""
