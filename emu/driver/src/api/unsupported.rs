//! Functions of the driver API that the stand-in does not have. They are there, so that programs find them, and answer that
//! they are not supported; each says its name once.

use crate::call::{Call, exports};
use crate::error::Answer;

/// Declares functions by the version of CUDA that has them first. Their arguments do not matter.
macro_rules! unsupported {
    ($($since:literal: $($name:ident)*;)*) => {
        exports! { Nothing { $($($name @$since () = refuse;)*)* } }
    };
}

fn refuse(call: &mut Call) -> Answer {
    let name = call.export.name;
    Err(call.unsupported(name))
}

unsupported! {
    2000: cuArrayDestroy cuCtxAttach cuCtxDetach cuFuncSetBlockShape cuFuncSetSharedSize cuLaunch cuLaunchGrid
        cuLaunchGridAsync cuModuleGetTexRef cuParamSetSize cuParamSetTexRef cuParamSetf cuParamSeti cuParamSetv
        cuTexRefCreate cuTexRefDestroy cuTexRefGetAddressMode cuTexRefGetArray cuTexRefGetFilterMode cuTexRefGetFlags
        cuTexRefGetFormat cuTexRefSetAddressMode cuTexRefSetArray cuTexRefSetFilterMode cuTexRefSetFlags
        cuTexRefSetFormat;
    3000: cuGraphicsGLRegisterBuffer cuGraphicsGLRegisterImage cuGraphicsMapResources
        cuGraphicsSubResourceGetMappedArray cuGraphicsUnmapResources cuGraphicsUnregisterResource cuModuleGetSurfRef
        cuSurfRefGetArray cuSurfRefSetArray;
    3010: cuGraphicsVDPAURegisterOutputSurface cuGraphicsVDPAURegisterVideoSurface cuVDPAUGetDevice;
    3020: cuArray3DCreate_v2 cuArray3DGetDescriptor_v2 cuArrayCreate_v2 cuArrayGetDescriptor_v2
        cuGraphicsResourceGetMappedPointer_v2 cuMemcpyAtoA_v2 cuMemcpyAtoD_v2 cuMemcpyAtoHAsync_v2 cuMemcpyAtoH_v2
        cuMemcpyDtoA_v2 cuMemcpyHtoAAsync_v2 cuMemcpyHtoA_v2 cuTexRefGetAddress_v2 cuTexRefSetAddress_v2
        cuVDPAUCtxCreate;
    4000: cuProfilerInitialize;
    4010: cuIpcCloseMemHandle cuIpcGetEventHandle cuIpcGetMemHandle cuIpcOpenEventHandle cuTexRefSetAddress2D_v3;
    5000: cuGraphicsResourceGetMappedMipmappedArray cuMipmappedArrayCreate cuMipmappedArrayDestroy
        cuMipmappedArrayGetLevel cuSurfObjectCreate cuSurfObjectDestroy cuSurfObjectGetResourceDesc cuTexObjectCreate
        cuTexObjectDestroy cuTexObjectGetResourceDesc cuTexObjectGetResourceViewDesc cuTexObjectGetTextureDesc
        cuTexRefGetMaxAnisotropy cuTexRefGetMipmapFilterMode cuTexRefGetMipmapLevelBias cuTexRefGetMipmapLevelClamp
        cuTexRefGetMipmappedArray cuTexRefSetMaxAnisotropy cuTexRefSetMipmapFilterMode cuTexRefSetMipmapLevelBias
        cuTexRefSetMipmapLevelClamp cuTexRefSetMipmappedArray;
    6050: cuGLGetDevices cuGraphicsResourceSetMapFlags_v2;
    7000: cuEGLStreamConsumerAcquireFrame cuEGLStreamConsumerConnect cuEGLStreamConsumerDisconnect
        cuEGLStreamConsumerReleaseFrame cuEGLStreamProducerConnect cuEGLStreamProducerDisconnect
        cuEGLStreamProducerPresentFrame cuEGLStreamProducerReturnFrame cuGraphicsEGLRegisterImage
        cuGraphicsResourceGetMappedEglFrame;
    8000: cuEGLStreamConsumerConnectWithFlags cuMemRangeGetAttribute cuMemRangeGetAttributes cuTexRefGetBorderColor
        cuTexRefSetBorderColor;
    9000: cuEventCreateFromEGLSync cuLaunchCooperativeKernelMultiDevice;
    10000: cuDestroyExternalMemory cuDestroyExternalSemaphore cuExternalMemoryGetMappedBuffer
        cuExternalMemoryGetMappedMipmappedArray cuImportExternalMemory cuImportExternalSemaphore
        cuSignalExternalSemaphoresAsync cuWaitExternalSemaphoresAsync;
    10020: cuDeviceGetNvSciSyncAttributes cuMemAddressFree cuMemAddressReserve cuMemCreate
        cuMemExportToShareableHandle cuMemGetAccess cuMemGetAllocationGranularity
        cuMemGetAllocationPropertiesFromHandle cuMemImportFromShareableHandle cuMemMap cuMemRelease cuMemSetAccess
        cuMemUnmap;
    11000: cuIpcOpenMemHandle_v2 cuMemRetainAllocationHandle;
    11010: cuArrayGetSparseProperties cuMemMapArrayAsync cuMipmappedArrayGetSparseProperties;
    11020: cuArrayGetPlane cuMemPoolCreate cuMemPoolDestroy cuMemPoolExportPointer cuMemPoolExportToShareableHandle
        cuMemPoolImportFromShareableHandle cuMemPoolImportPointer;
    11040: cuCtxGetExecAffinity cuDeviceGetGraphMemAttribute cuDeviceGraphMemTrim cuDeviceSetGraphMemAttribute;
    11060: cuArrayGetMemoryRequirements cuMipmappedArrayGetMemoryRequirements;
    11070: cuMemGetHandleForAddressRange;
    12000: cuTensorMapEncodeIm2col cuTensorMapEncodeTiled cuTensorMapReplaceAddress;
    12010: cuCoredumpGetAttribute cuCoredumpGetAttributeGlobal cuCoredumpSetAttribute cuCoredumpSetAttributeGlobal
        cuMulticastAddDevice cuMulticastBindAddr cuMulticastBindAddr_v2 cuMulticastBindMem cuMulticastBindMem_v2
        cuMulticastCreate cuMulticastGetGranularity cuMulticastUnbind;
    12040: cuCtxFromGreenCtx cuCtxGetDevResource cuDevResourceGenerateDesc cuDevSmResourceSplitByCount
        cuDeviceGetDevResource cuDeviceRegisterAsyncNotification cuDeviceUnregisterAsyncNotification cuGreenCtxCreate
        cuGreenCtxDestroy cuGreenCtxGetDevResource cuGreenCtxRecordEvent cuGreenCtxWaitEvent cuStreamGetGreenCtx;
    12050: cuGreenCtxStreamCreate;
    12060: cuMemBatchDecompressAsync;
    12080: cuCheckpointProcessCheckpoint cuCheckpointProcessGetRestoreThreadId cuCheckpointProcessGetState
        cuCheckpointProcessLock cuCheckpointProcessRestore cuCheckpointProcessUnlock cuLogsCurrent cuLogsDumpToFile
        cuLogsDumpToMemory cuLogsRegisterCallback cuLogsUnregisterCallback cuTensorMapEncodeIm2colWide;
    12090: cuGreenCtxGetId;
    13000: cuDeviceGetHostAtomicCapabilities cuDeviceGetP2PAtomicCapabilities cuMemDiscardAndPrefetchBatchAsync
        cuMemDiscardBatchAsync cuMemGetDefaultMemPool cuMemGetMemPool cuMemPrefetchBatchAsync cuMemSetMemPool
        cuMemcpy3DBatchAsync cuMemcpy3DBatchAsync_v2 cuMemcpyBatchAsync cuMemcpyBatchAsync_v2;
    13020: cuLaunchHostFunc_v2;
}
