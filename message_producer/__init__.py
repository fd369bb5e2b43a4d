"""The message producer: owns the schedule and every business rule; decides what is broadcast and when.

model, timeline, drafts, validation, published_schedule, shadows, lease, anchored_clock   decisions, pure
operations    the use cases of operators and feeds, as transactions on the store
dispatch, publishing, lease_keeper, wakeups      what runs by itself: due stages go out, once (R1-R4)
store, ports  what it needs of the world
api*, graphql, problems, moments                 the operator API
feeds/        schedules that others keep as .ics
adapters/     SQLAlchemy, migrations, the outbox as the embedded log, APScheduler
app           composition
"""
