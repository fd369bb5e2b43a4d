"""The impure floor every service stands on: clock, settings, telemetry, lifecycle, failpoints."""
