// Margin softmax, backward: the shares of a tile of classes with several centres each. A file of its own, as its text is long.
#include "shares.cuh"

MARGIN_SHARES(margin_shares_subs_f16, NARROW, 1, false, true)
MARGIN_SHARES(margin_shares_subs_f32, NARROW, 1, true, true)
