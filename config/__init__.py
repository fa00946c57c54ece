"""The one YAML file: models, loader, checks."""
