/* Says which version of the ABI it was compiled for, and which it was linked with. */
#include <lb_core.h>
#include <stdio.h>

int main(void)
{
    printf("compiled for %u, linked with %u\n", (unsigned)LB_ABI_VERSION, (unsigned)lb_abi_version());
    return 0;
}
