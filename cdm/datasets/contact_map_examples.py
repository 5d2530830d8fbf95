"""ContactMapExampleDataset: a list of items of the scene sets, each with a text of its own (z up).

The list is afford-motion's `contact_examples.txt`: a line is `text#set#row number`. What comes
behind a third `#` (a number of frames) is for its stage 2.
"""

import re
from collections import Counter

from cdm.datasets.contact_map import ContactMapDataset
from cdm.datasets.reference_draws import Entry
from cdm.datasets.tables import AnnoRow, NoIndex, read_index
from cdm.errors import DataError
from cdm.files import place_of, safe_name

USUAL_LIST = "examples/contact_examples.txt"  # in the data folder


class ContactMapExampleDataset(ContactMapDataset):
    """The lines of the list, in its order, whatever the phase. Nothing is rotated or drawn.

    An item may stand in several lines. Its `caption_idx` counts them, from 0.
    """

    has_splits = False
    rotates = False

    def entries(self):
        tables: dict[str, list[AnnoRow]] = {}
        entries: list[Entry] = []
        seen: Counter[tuple[str, int]] = Counter()
        for place, text, set_name, index in self._lines():
            if set_name not in tables:
                try:
                    tables[set_name] = self.read_rows(set_name)
                except NoIndex as error:
                    raise DataError(f"{place} names the set {set_name!r}, but {error}") from error
            rows = tables[set_name]
            if index >= len(rows):
                raise DataError(
                    f"{place} asks for row {index}, but {set_name}/contact_motion/anno.csv has "
                    f"{len(rows)} rows, which are counted from 0"
                )
            row, item = rows[index], (set_name, index)
            captions = [(seen[item], text)]
            entries.append(Entry(set_name, str(index), captions, [], row.scene_id, row.scene_trans))
            seen[item] += 1
        return entries

    def drawn_entries(self):
        """The same: afford-motion neither shuffles examples nor draws captions for them."""
        return self.entries()

    def statistics_samples(self):
        """Those of the sets that the model was trained on: examples are too few."""
        sets = ContactMapDataset(self.config, self.data_dir, self.point_feat_dim, self.seed)
        sets.exp_dir = self.exp_dir
        return sets.statistics_samples()

    def _lines(self) -> list[tuple[str, str, str, int]]:
        """(what messages call the line, text, set, row number) of each line.

        Raises:
            DataError: no such file, no line, or a line that is something else.
        """
        path = place_of(self.config.examples or self.data_dir / USUAL_LIST)
        found = []
        try:
            lines = read_index(path.parent, path.name).split("\n")
        except NoIndex as error:
            raise DataError(
                f"{path}: no such file, expected a list of examples; set dataset.examples to it "
                f"(null: {USUAL_LIST} in dataset.data_dir)"
            ) from error
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place, fields = f"{path}: line {number}", line.split("#")
            index = fields[2].strip(" \t") if len(fields) > 2 else ""
            if not re.fullmatch(r"[0-9]{1,18}", index):
                raise DataError(
                    f"{place} is {line!r}, expected text#set#row number, such as "
                    "sit on the chair#HUMANISE#00012"
                )
            safe_name(fields[1], f"{place}: set", DataError)
            found.append((place, fields[0], fields[1], int(index)))
        if not found:
            raise DataError(f"{path}: no line; expected text#set#row number in each")
        return found

    def _has_target(self, sample):
        return False  # afford-motion reads target masks in its tests alone
