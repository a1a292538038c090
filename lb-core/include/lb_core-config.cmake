# find_package(lb_core) gives the target lb_core::lb_core. Lies in <prefix>/lib/cmake/lb_core.
get_filename_component(lb_core_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET lb_core::lb_core)
    add_library(lb_core::lb_core STATIC IMPORTED)
    set_target_properties(lb_core::lb_core PROPERTIES
        IMPORTED_LOCATION "${lb_core_prefix}/lib/liblb_core.a"
        INTERFACE_INCLUDE_DIRECTORIES "${lb_core_prefix}/include")
endif()
