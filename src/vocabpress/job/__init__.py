"""The main job: calibrate, fit to the quality that is asked for, measure what changed, recover, write."""
