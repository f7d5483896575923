"""Display: drawings, previews, the report and the gallery that people look at."""
