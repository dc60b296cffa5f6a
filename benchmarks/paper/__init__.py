"""The paper on real data: its experiments, and those of its follow-ups, as commands that anyone can rerun."""
