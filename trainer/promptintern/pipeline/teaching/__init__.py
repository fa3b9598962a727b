"""The teaching pass: models with longer prompts answer queries and score answers, and stages learn from both."""
