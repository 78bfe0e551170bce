"""Where runs are carried out, and how their progress is shown."""
