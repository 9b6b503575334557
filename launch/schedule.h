// The learning rate as a function of the step. Pure: any thread, and a resumed run gets the same values.
#pragma once

#include <cstdint>

#include "launch/config/config.h"

namespace tessera {

// The rate of step `step` (from 0) of `steps`, whose peak is `peak`. For the first `warmup` steps it rises
// linearly, peak/warmup at step 0 to peak at step warmup−1. Then
//   constant: peak;
//   cosine:   min_lr + (peak − min_lr)·(1 + cos πp)/2, p from 0 at step `warmup` to 1 at step `steps`;
//   wsd:      peak until step steps−decay_steps, then linearly to min_lr at step `steps`; auto is a tenth of
//             the steps, or what the warmup leaves of them.
// Steps beyond `steps` stay at the last value.
double learning_rate(const ScheduleConfig& schedule, double peak, std::int64_t steps, std::int64_t step);

}  // namespace tessera
