// The passes of the row-wise operators for what every CPU of the architecture has.
#define DTK_ISA baseline
#include "envelope_lines.h"
#include "label_rows.h"
#include "nearest_slice.h"
#include "remap_rows.h"
#include "weigh_rows.h"

namespace dtk::cpu {
const RowPasses kBaselineRowPasses = {DTK_ISA::nearest_table(), DTK_ISA::label_table(),
                                      DTK_ISA::envelope_table(), DTK_ISA::remap_table(), DTK_ISA::weigh_rows};
}
