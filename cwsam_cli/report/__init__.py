"""The page that the reports of models and of maps share: one file for the browser that needs no network."""
