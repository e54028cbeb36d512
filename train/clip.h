// Clipping of gradients by their global norm, with the semantics of
// torch.nn.utils.clip_grad_norm_. Same bits with any number of threads.
#ifndef LAPIDARY_TRAIN_CLIP_H_
#define LAPIDARY_TRAIN_CLIP_H_

#include <vector>

#include "autograd/tape.h"

namespace lapidary {

// The L2 norm of all gradients together (undefined ones count as zero): squares summed in double in
// blocks of 4,096 elements, blocks in order.
double GlobalGradNorm(const std::vector<Param*>& params);

// Multiplies every gradient by min(1, max_norm / (norm + 1e-6)) and returns the norm before.
// max_norm 0 only measures. A norm that is not finite leaves the gradients as they are: the caller
// decides. Throws Error if max_norm < 0. Source: Pascanu et al. 2013, arXiv:1211.5063.
double ClipGradNorm(const std::vector<Param*>& params, double max_norm);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_CLIP_H_
