"""The page's shell: data that cannot break out of it, and a policy that loads nothing."""

import json
import re

from experiments.studies import interactive_page


def page(**named):
    cases = [{"title": "case 1", "masks": ["</script><b>"]}, {"title": "case 2", "masks": []}]
    given = {"lead": "lead", "data": {"browser": cases}, "sections": [("a", "A & B", "<p>x</p>")]}
    return interactive_page.document("title <1>", **{**given, **named})


def test_what_a_string_holds_is_never_markup():
    text = page(warning="<i>warned</i>")
    assert "title &lt;1&gt;" in text and "A &amp; B" in text and "&lt;i&gt;warned" in text
    assert "</script><b>" not in text
    found = re.search(r'id="case-0">(.*?)</script>', text, re.S).group(1)
    assert json.loads(found) == {"title": "case 1", "masks": ["</script><b>"]}


def test_each_case_is_an_element_of_its_own_and_the_list_names_them():
    found = re.search(r'id="data">(.*?)</script>', page(), re.S).group(1)
    assert json.loads(found) == {"browser": ["case 1", "case 2"]}
    assert 'id="case-1"' in page() and 'id="case-2"' not in page()


def test_the_policy_forbids_loading_anything():
    assert "default-src 'none'" in page()
    assert 'class="warn"' not in page() and '<section id="s-a"><p>x</p></section>' in page()
