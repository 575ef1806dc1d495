"""The five commands on a real scene."""
