"""Whether the files of a folder have as many channels as the config says, by the first one, before a run begins."""

from ml_collections import ConfigDict

from beit_jax.data.decoding.channels import count_channels
from beit_jax.data.sources.listed import ListedSource, read_file
from beit_jax.data.sources.open_source import open_source
from beit_jax.errors import UserError, printable


def check_channels(data: ConfigDict) -> None:
    """Checks a section `data` of 2 or 4 channels; grey and colours become each other, and arrays have one shape.

    Raises:
      UserError: the first training image has other channels.
    """
    if data.channels not in (2, 4):
        return
    source = open_source(data.source, data.data_dir, data.split, data.shuffle_buffer)
    path = source.first_path if isinstance(source, ListedSource) else None
    found = data.channels if path is None else int(count_channels(read_file(path)))
    if found != data.channels:
        raise UserError(
            f"{printable(path.decode('utf-8', 'backslashreplace'))} has {found} channels, and data.channels="
            f"{data.channels}; expected PNG files of as many: give channels={found} to the config file, or other files"
        )
