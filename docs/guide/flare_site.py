"""What a site runs in a federation of NVIDIA FLARE: the bundle's client between FLARE's receive and send.

`flare.py` starts it with the folder of the sites.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nvflare.client as flare
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject

from monai_rd.integrations.federated import SiteClient


def main() -> None:
    """Train in each round that the server asks for."""
    flare.init()
    name = flare.get_site_name()
    site = Path(sys.argv[1]) / name
    known = json.loads((site / "words.json").read_text())
    words, epochs = known["words"], known["local_epochs"]
    client = SiteClient(
        str(site), local_epochs=epochs, send_weight_diff=False, train_kwargs=dict(words), eval_kwargs=dict(words)
    )
    client.initialize({ExtraItems.CLIENT_NAME: name})
    while flare.is_running():
        given = flare.receive()
        if given is None:
            break
        own = client.get_weights().weights  # the mean of whole numbers comes as a fraction
        client.train(ExchangeObject(weights={key: value.to(own[key].dtype) for key, value in given.params.items()}))
        flare.send(flare.FLModel(params=client.get_weights().weights))


if __name__ == "__main__":
    main()
