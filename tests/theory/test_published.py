"""Single published figures that the model meets without having been fitted to them as a whole."""

import numpy as np
import pytest

from moesim.network.bound import bound_completion
from moesim.traffic import count_traffic
from tests.collective.conftest import make_builder


@pytest.mark.parametrize(("sms", "published_us", "within"), [(4, 2068, 0.03), (8, 1082, 0.06), (16, 579, 0.12)])
def test_the_copy_engine_meets_deepep_at_few_sms(sms, published_us, within):
    """H100, EP 8, 4096 tokens a rank, 256 experts, top-8, 7168 wide FP8: limited by SMs at 4 to 16 of them.

    Source: aiconfigurator-core silicon table of DeepEP normal kernels, as quoted in docs/MODEL.md 2.3. The error grows
    with the SMs because NVLink begins to bind, whose measured efficiency is not in the datasheet profile.
    """
    rng = np.random.default_rng(0)
    tokens = 8 * 4096
    ids_TK = np.argsort(rng.random((tokens, 256)), axis=1)[:, :8].astype(np.int32)
    source_T = np.repeat(np.arange(8, dtype=np.int32), 4096)
    counts = count_traffic(ids_TK, source_T, (np.arange(256) // 32).astype(np.int32), 8, 8)
    builder = make_builder(1, "per_device", sms=sms)
    flows = builder.build((counts,), "dispatch").flows
    seconds = bound_completion(flows, builder.links.bandwidth) * 7408 / 1000  # copies of the test builder weigh 1000 B
    assert published_us * 1e-6 == pytest.approx(seconds, rel=within)
