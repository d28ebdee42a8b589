"""`python -m tools.dashboards`: write the files."""

from tools.dashboards.files import FOLDER, texts

for name, text in texts().items():
    (FOLDER / name).write_text(text)
