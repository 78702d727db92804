"""The theory: levels, schedules, denoisers, losses, solvers and guidance. It imports nothing else of phin."""
