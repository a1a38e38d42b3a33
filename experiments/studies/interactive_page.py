"""An HTML page with its data, style and scripts inside, which opens from disk without a network.

The page consists of a template, a style sheet and scripts from this package, and the data as JSON.
Its content security policy forbids loading anything else. It has a light and a dark theme and can
be printed.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.reports import html_parts

_PAGE = pathlib.Path(__file__).with_name("page")


def document(
    title: str,
    lead: str,
    data: Mapping[str, Any],
    *,
    sections: Sequence[tuple[str, str, str]],
    warning: str = "",
) -> str:
    """Returns a page.

    Args:
      lead: the sentence below the title.
      data: what the scripts draw; `browser` holds the cases whose pictures are shown.
      sections: (key, name in the navigation, HTML) of each part.
      warning: shown above everything else.
    """
    style, script, browser = (
        (_PAGE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "browser.js")
    )
    nav = "".join(f'<a href="#s-{key}">{html_parts.text(name)}</a>' for key, name, _ in sections)
    body = "".join(f'<section id="s-{key}">{content}</section>' for key, _, content in sections)
    browsed = data.get("browser", [])
    payload = _embedded({**data, "browser": [case["title"] for case in browsed]})
    # One element per case, so that its pictures are decoded only when the case is chosen.
    cases = "".join(
        f'<script type="application/json" id="case-{i}">{_embedded(case)}</script>'
        for i, case in enumerate(browsed)
    )
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )
    notice = f'<div class="warn">{html_parts.text(warning)}</div>' if warning else ""
    head = f'''<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
'''
    shown = f"""<div class="bar"><div><nav>{nav}</nav><span class="right">
<button id="theme" data-state="auto">Theme: auto</button>
<button id="print">Print</button></span></div></div>
<main><h1>{html_parts.text(title)}</h1><p class="lead">{html_parts.text(lead)}</p>{notice}
{body}<footer>Research software, not a medical device. This page contains everything it shows and
loads nothing from elsewhere.</footer></main>
<div id="tip"></div><script type="application/json" id="data">{payload}</script>{cases}
<script>{script}</script><script>{browser}</script>
"""
    return html_parts.document(title, shown, style=style, head=head)


def _embedded(value: Any) -> str:
    """Returns JSON for a script element, which a closing tag in a string would otherwise end."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("</", "<\\/").replace("<!--", "<\\u0021--")
