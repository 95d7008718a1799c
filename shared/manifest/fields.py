"""The fields of a manifest, each declared once: where it may appear, the names of its column, its meaning.

Everything else about fields is derived from this table: the JSON formats, the columns of tables, the header that all
rows must share, the published schema, and what INGEST copies into the batch. CONTRIBUTING.md, "A new field of the
manifest".
"""

from __future__ import annotations

from typing import Final

import msgspec


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One field. `columns` are other names of its column in tables, in the form that `vocabulary.plain` returns.

    In a table, header fields are repeated in every row and must be equal, except those that an image may have of its
    own. `attribute` is the name of a header field in `Manifest`; with `of_batch` the batch has it under the same name.
    """

    name: str
    words: str  # for the published schema
    in_header: bool = False
    in_image: bool = False
    required: bool = False  # a table must have its column: it has no default anywhere
    columns: tuple[str, ...] = ()
    attribute: str = ""
    of_batch: bool = False


FIELDS: Final = (
    Field(
        name="clientName",
        words="The client the photos belong to. Its slug is the name of your folder.",
        in_header=True,
        required=True,
        columns=("client", "customer", "customer name", "cliente", "nome do cliente", "imobiliaria", "nome cliente"),
        attribute="client_name",
        of_batch=True,
    ),
    Field(
        name="url",
        words=(
            "An https:// address, a gs:// address in a bucket we may read for you, or a path relative to the manifest."
        ),
        in_image=True,
        required=True,
        columns=(
            "photo", "photo url", "image", "image url", "link", "address", "foto", "url da foto", "link da foto",
            "imagem", "url da imagem", "link da imagem", "endereco da foto", "endereco", "arquivo", "file", "caminho",
        ),
    ),
    Field(
        name="propertyCode",
        words="Your reference. It becomes part of the picture's file name and need not be unique.",
        in_image=True,
        columns=(
            "property", "property id", "code", "reference", "ref", "listing", "listing id", "codigo",
            "codigo do imovel", "imovel", "referencia", "cod imovel", "codigo imovel", "cod",
        ),
    ),
    Field(
        name="roomType",
        words=(
            "The kind of room. The listed values are the canonical names. Other spellings and Portuguese names, such "
            "as sala de estar, are understood too."
        ),
        in_header=True,
        in_image=True,
        required=True,
        columns=("room", "type of room", "comodo", "tipo de comodo", "ambiente", "tipo de ambiente", "tipo comodo"),
    ),
    Field(
        name="designStyle",
        words=(
            "The furnishing style. The listed values are the canonical names. Other spellings and Portuguese names, "
            "such as moderno, are understood too."
        ),
        in_header=True,
        in_image=True,
        required=True,
        columns=("style", "design", "estilo", "estilo de design", "decoracao", "estilo de decoracao"),
    ),
    Field(
        name="priority",
        words="express (price +50 %), normal, or economy (price -30 %). Other names, such as high or alta, work too.",
        in_header=True,
        columns=("tier", "prioridade", "urgencia"),
        attribute="tier",
        of_batch=True,
    ),
    Field(
        name="batchId",
        words="Your own id of the batch. The same id with the same content is the same batch. Default: a hash.",
        in_header=True,
        columns=("batch", "lote", "id do lote", "codigo do lote"),
        attribute="batch_id",
    ),
    Field(
        name="cache",
        words="Whether results of the last 30 days may be reused for this batch.",
        in_header=True,
        columns=("use cache", "usar cache", "reaproveitar"),
        attribute="cache",
        of_batch=True,
    ),
    Field(
        name="failureThreshold",
        words=(
            'Pause the batch after this many failures, such as 50, or at this failure rate, such as "20%". '
            '"20% of 50" checks the rate once 50 images are finished.'
        ),
        in_header=True,
        columns=("threshold", "limite de falhas", "tolerancia de falhas"),
        attribute="threshold",
        of_batch=True,
    ),
)  # fmt: skip
# Columns of our own failed.csv: they name the images of a batch that are to be tried again (`index`), and why.
RETRY_COLUMNS: Final = {
    "index": ("indice", "image index"),
    "errorCode": ("codigo do erro", "codigo de erro", "error code"),
    "errorMessage": ("mensagem de erro", "mensagem do erro", "error message"),
}

HEADER_FIELDS: Final = tuple(field.name for field in FIELDS if field.in_header)
IMAGE_FIELDS: Final = tuple(field.name for field in FIELDS if field.in_image)
COLUMNS: Final = tuple(field.name for field in FIELDS)
REQUIRED: Final = tuple(field.name for field in FIELDS if field.required)
SAME_IN_ALL_ROWS: Final = tuple(field.name for field in FIELDS if field.in_header and not field.in_image)
OF_BATCH: Final = tuple(field.attribute for field in FIELDS if field.of_batch)
ALIASES: Final = {field.name: field.columns for field in FIELDS} | RETRY_COLUMNS
WORDS: Final = {field.name: field.words for field in FIELDS}
