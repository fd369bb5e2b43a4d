"""Schedules that others keep: iCalendar files and addresses, read, judged entry by entry, and followed.

lines      cuts a file into components with their line numbers (RFC 5545 unfolding)
ics        components -> entries and rejections: zones resolved, recurrences expanded, each UID on its own
template   an entry -> the event it asks for, stages from a template
sync       entries -> operations: created, moved, changed, cancelled; safe to repeat
poller     a file or an address watched with conditional requests
"""
