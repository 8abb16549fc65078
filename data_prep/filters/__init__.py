"""Filters: each `f(document, settings) -> Document | Drop`. A filter may change the text or add metadata by returning a
new Document (`dataclasses.replace`); it never changes the one it was given, and looks at nothing but its arguments."""

from typing import Annotated

from pydantic import Field

from data_prep.filters import c4, content, encoding, fineweb, gopher, language, personal_data, policy, spam, toxicity

Filter = Annotated[
    encoding.EncodingRepair
    | content.Content
    | language.Language
    | gopher.GopherQuality
    | gopher.GopherRepetition
    | c4.C4
    | fineweb.FineWeb
    | spam.Spam
    | toxicity.Toxicity
    | personal_data.PersonalData
    | policy.OptOut
    | policy.LicencePolicy,
    Field(discriminator="type"),
]
FILTERS = {
    "encoding_repair": encoding.apply,
    "content": content.apply,
    "language": language.apply,
    "gopher_quality": gopher.apply_quality,
    "gopher_repetition": gopher.apply_repetition,
    "c4": c4.apply,
    "fineweb": fineweb.apply,
    "spam": spam.apply,
    "toxicity": toxicity.apply,
    "personal_data": personal_data.apply,
    "opt_out": policy.apply_opt_out,
    "licence": policy.apply_licence,
}
