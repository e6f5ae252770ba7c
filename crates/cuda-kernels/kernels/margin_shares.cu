// Margin softmax, backward: the shares of a tile of classes.
#include "shares.cuh"

MARGIN_SHARES(margin_shares_f16, WIDE, 2, false, false)
MARGIN_SHARES(margin_shares_f32, WIDE, 2, true, false)
