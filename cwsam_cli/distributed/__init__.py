"""Run one job in several processes: launch, watchdog, sharding."""
