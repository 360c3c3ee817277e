"""The scheduling core: events in, commands out; no clock, no wire, no storage.

`machine.Machine` is the way in, `model`, `events` and `commands` are what passes through it.
"""
