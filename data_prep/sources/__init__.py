"""Readers of what teams have. Each module of READERS has

- its settings, with a literal `type`, and `suffixes`: endings of the files that it takes from folders and archives;
- pieces(settings, base): the inputs, found without reading them;
- read(piece, settings): Document and SetAside, one record at a time. What one record's content can cause is caught by
  `files.guarded`: it costs that record, and the rest of the file goes on.
"""

from types import ModuleType
from typing import Annotated

from pydantic import Field

from data_prep.sources import (
    arrow,
    arxiv,
    csv_table,
    epub,
    faq,
    gutenberg,
    hf_dataset,
    html_pages,
    jats,
    jsonl,
    papers,
    parallel_text,
    parquet,
    plaintext,
    question_answer,
    stack_exchange,
    tmx,
    warc,
    webdataset,
    wikipedia,
)

Source = Annotated[
    plaintext.PlainTextSource
    | gutenberg.GutenbergSource
    | jsonl.JsonlSource
    | parquet.ParquetSource
    | arrow.ArrowSource
    | webdataset.WebDatasetSource
    | csv_table.CsvSource
    | hf_dataset.HFDatasetSource
    | html_pages.HTMLSource
    | warc.WarcSource
    | wikipedia.WikipediaSource
    | question_answer.QuestionAnswerSource
    | faq.FAQSource
    | parallel_text.ParallelTextSource
    | papers.PapersSource
    | arxiv.ArxivSource
    | jats.JatsSource
    | jats.TeiSource
    | stack_exchange.StackExchangeSource
    | epub.EpubSource
    | tmx.TmxSource,
    Field(discriminator="type"),
]
READERS: dict[str, ModuleType] = {
    "plaintext": plaintext,
    "gutenberg": gutenberg,
    "jsonl": jsonl,
    "parquet": parquet,
    "arrow": arrow,
    "webdataset": webdataset,
    "csv": csv_table,
    "hf_dataset": hf_dataset,
    "html": html_pages,
    "warc": warc,
    "wikipedia": wikipedia,
    "question_answer": question_answer,
    "faq": faq,
    "parallel_text": parallel_text,
    "papers": papers,
    "arxiv": arxiv,
    "jats": jats,
    "tei": jats,
    "stack_exchange": stack_exchange,
    "epub": epub,
    "tmx": tmx,
}
