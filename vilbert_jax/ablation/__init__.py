"""Many pre-trainings and fine-tunings as one experiment: a grid, the runs that fill it, its tables and plots."""
