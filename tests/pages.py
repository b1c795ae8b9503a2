"""Pages read strictly."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Reads a page strictly: every element that is opened is closed, in order.

    attributes: (name, value) of all elements. texts: all text. headings: (level, text) in order. cards: text of each
    sample. ids: all ids.
    """

    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.attributes, self.cards, self.headings, self.tags = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    @property
    def ids(self):
        return [value for name, value in self.attributes if name == "id"]

    def handle_starttag(self, tag, attributes):
        self.attributes += attributes
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "article":
            self.cards.append("")
        if tag[0] == "h" and tag[1:].isdigit():
            self.headings.append((int(tag[1:]), ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open[-2:] == ["article", "p"] or self.open[-3:] == ["article", "p", "span"]:
            self.cards[-1] += data
        if self.open and self.open[-1][0] == "h" and self.open[-1][1:].isdigit():
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)
